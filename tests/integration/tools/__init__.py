"""What the integration tests share: scraping, raw AMQP, the command line."""
