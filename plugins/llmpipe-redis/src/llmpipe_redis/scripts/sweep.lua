-- needs _clock _ledger
-- Expire holds whose lease has ended, SOME at most; how many there were. ARGV: ahead, remember ms.

return expire(clock(), ARGV[2])
