"""The gateway: HTTP in front of the queue. Nothing here is imported before a command or a program needs it."""
