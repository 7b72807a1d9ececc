"""What the integration tests share: a proxy that fails, scraping, raw AMQP, the command line."""
