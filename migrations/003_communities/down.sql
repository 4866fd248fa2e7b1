DROP TABLE invites, bans, members, log_ops, logs, groups, communities;
