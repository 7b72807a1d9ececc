"""The second driver: actors on a broker in memory, in virtual time."""
