"""What can go wrong between the lab and a broker: one exception, whose text is the whole report."""


class BrokerUnavailable(Exception):
    """No broker could be used or started; the text names the place and the way out."""


class BrokerMisnamed(BrokerUnavailable):
    """What is to name a broker is neither one of the words nor a URL that can be used."""
