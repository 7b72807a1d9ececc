"""The command line, `teardown`: one command a file. Parses, calls, prints; decides nothing."""
