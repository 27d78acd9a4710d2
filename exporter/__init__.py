"""configbackup: back up the configuration of every network device and know that it worked.

The product, the distribution and the command are called `configbackup`; the import package is
`exporter` because what the project is for, from the first day, is to export the health of
configuration backups to Prometheus, Grafana and Alertmanager.
"""
