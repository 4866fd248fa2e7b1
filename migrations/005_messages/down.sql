DROP TABLE message_copies, messages;
