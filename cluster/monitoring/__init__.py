"""What watches runs: Prometheus rules and scrape files, Grafana dashboards, and the check that they show something."""
