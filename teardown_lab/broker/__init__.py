"""A broker that somebody runs, spoken to over AMQP: is it there, what is on it, remove that.

Everything here is impure. Who starts one of his own finds it in `own_broker`.
"""
