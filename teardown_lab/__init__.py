"""The lab around the services: run, explore and judge the orderings of a teardown."""
