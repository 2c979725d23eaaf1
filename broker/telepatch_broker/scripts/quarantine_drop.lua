-- Forgets a job in quarantine. ARGV: id. Returns 1, or 0 when it is not there.
return drop_quarantined(ARGV[1], now())
