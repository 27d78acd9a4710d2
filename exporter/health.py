"""Thresholds that views, API, dashboards and rules share."""

#: The success rate (percent) from which the fleet is healthy, and from which it is fair.
HEALTHY_FROM_PERCENT = 95
FAIR_FROM_PERCENT = 80
#: The success rate (percent) from which a device's bar is green, and from which it is amber.
DEVICE_GOOD_FROM_PERCENT = 90
DEVICE_FAIR_FROM_PERCENT = 70
#: A backup is fresh while the last success is not older than this many of the device's intervals.
FRESH_INTERVALS = 2
