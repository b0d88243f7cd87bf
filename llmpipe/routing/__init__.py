"""Which target answers a call: routers, selectors, ensembles. Each in a module of its own."""
