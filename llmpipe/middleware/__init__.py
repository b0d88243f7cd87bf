"""One concern, one name: a file, or a package: the middleware in its `__init__`, its parts beside it."""
