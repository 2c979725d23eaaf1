"""The command line: a frame that finds each room's commands, and the commands of the client itself."""
