DROP FUNCTION append_server_rows, append_rows, aim_fault, has_earlier, is_blocked, is_banned, stale_devices, erase_rows, lock_channels, pin_count;
DROP VIEW log_shrinks, log_listeners;
DROP INDEX messages_pins;
