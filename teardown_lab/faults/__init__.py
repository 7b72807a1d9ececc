"""What is made to fail on purpose, between services and their broker."""
