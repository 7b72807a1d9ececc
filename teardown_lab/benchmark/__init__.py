"""What a teardown costs beyond AMQP itself: our services beside a yardstick of raw pika.

`pairs` measures both by turns, `breakdown` tells from the history where our time goes, and
`raw_*` are the yardstick: no code of ours but names and arguments of queues.
"""
