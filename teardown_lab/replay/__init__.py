"""A schedule forced on the real services, by holding and releasing deliveries in their drivers."""
