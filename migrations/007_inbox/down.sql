DROP FUNCTION append_inbox;
