-- What a later version could bring, for tests of upgrades: a column that older programs do not know.
ALTER TABLE nodes ADD COLUMN motto TEXT NOT NULL DEFAULT '';
