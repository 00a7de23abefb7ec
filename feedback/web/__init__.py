"""The web app: what is answered to whom. Knows nothing of Ray."""
