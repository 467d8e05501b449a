"""How good a finished student is beyond its clean error."""
