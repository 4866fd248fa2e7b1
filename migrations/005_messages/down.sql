DROP FUNCTION channel_start_seq(uuid, bigint, bigint, timestamptz);
DROP TABLE message_copies, messages;
