-- What belongs to the installation as a whole and is written once, such as what its key files are recognised by.
CREATE TABLE log.installation_values (
    name  TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    value TEXT COLLATE "C" NOT NULL
);
