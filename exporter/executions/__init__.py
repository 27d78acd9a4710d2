"""Every change of an execution's status, and the ending transaction.

    queued -> running -> (row deleted, log row inserted: success, failed, timeout, cancelled)
       ^         |
       +---------+  a further try, after a back-off

Each change is a compare-and-set on the row of `open_executions`: who comes second sees that
nothing matched and goes on. `claims` makes an execution running, `tries` runs it, `retries` lets
it wait again, `endings` ends it; `cancelling` and `recovery` act on executions of other processes.
"""
