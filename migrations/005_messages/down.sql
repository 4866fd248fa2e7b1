DROP FUNCTION channel_start_seq(uuid, bigint, bigint, timestamptz);
DROP TRIGGER channels_delete_messages ON channels;
DROP TABLE message_copies, messages;
DROP FUNCTION delete_messages;
