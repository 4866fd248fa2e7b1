DROP FUNCTION append_server_rows, append_rows, stale_devices, erase_rows, lock_channels, pin_count;
DROP VIEW log_shrinks, log_listeners;
DROP INDEX messages_pins;
