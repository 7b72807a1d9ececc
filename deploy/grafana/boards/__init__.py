"""The dashboard's contents as data, and how they become Grafana's JSON."""
