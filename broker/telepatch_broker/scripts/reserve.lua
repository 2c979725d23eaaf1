-- Makes a blob known that is about to be written; it goes away unless something refers to it by then. ARGV: name, for how long in ms.
redis.call('ZADD', GARBAGE, now() + tonumber(ARGV[2]), ARGV[1])
return 1
