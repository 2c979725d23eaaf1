-- Makes a key worthless, now and on every gateway. ARGV: id. Returns 1, or 0 where there is none.
return drop_key(ARGV[1])
