"""The commands: files in, files out; each reads what was asked for, and decides nothing that a room below decides."""
