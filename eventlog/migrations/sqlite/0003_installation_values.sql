-- What belongs to the installation as a whole and is written once, such as what its key files are recognised by.
CREATE TABLE installation_values (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
