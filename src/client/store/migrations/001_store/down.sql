DROP TABLE words;
DROP TABLE messages;
DROP TABLE records;
