"""Steps from one version of the tables to the next, run by `feedback.database` whenever a log is opened."""
