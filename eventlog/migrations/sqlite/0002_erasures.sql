-- Which teams something was erased of: a handful, found without reading every head.
CREATE INDEX heads_erased ON heads (team_id) WHERE erasures > 0;
