"""Launch files for clusters (AWS, Google Cloud, hosts of one's own, Kubernetes), and what checks them offline."""
