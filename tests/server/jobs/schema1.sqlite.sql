-- Schema 1 of the job store, as it was first released, with two jobs: never changed, so that it can always be migrated.
CREATE TABLE pafu_jobs (
	number INTEGER NOT NULL,
	id VARCHAR(64) NOT NULL,
	caller VARCHAR(256) NOT NULL,
	state VARCHAR(16) NOT NULL,
	model VARCHAR(128) NOT NULL,
	"order" TEXT NOT NULL,
	remixed_from VARCHAR(64),
	idempotency_key VARCHAR(256),
	idempotency_digest VARCHAR(64),
	fence INTEGER NOT NULL,
	beat BIGINT NOT NULL,
	failures INTEGER NOT NULL,
	chunks INTEGER NOT NULL,
	created_at FLOAT NOT NULL,
	started_at FLOAT,
	finished_at FLOAT,
	expires_at FLOAT,
	work_seconds FLOAT NOT NULL,
	error_code VARCHAR(64),
	error_message TEXT,
	results TEXT,
	PRIMARY KEY (number),
	UNIQUE (caller, idempotency_key),
	UNIQUE (id)
);
CREATE INDEX ix_pafu_jobs_caller ON pafu_jobs (caller);
CREATE INDEX ix_pafu_jobs_state ON pafu_jobs (state);
CREATE TABLE pafu_meta (
	name VARCHAR(64) NOT NULL,
	value TEXT NOT NULL,
	PRIMARY KEY (name)
);
CREATE TABLE pafu_chunks (
	job VARCHAR(64) NOT NULL,
	number INTEGER NOT NULL,
	media TEXT NOT NULL,
	past TEXT NOT NULL,
	PRIMARY KEY (job, number),
	FOREIGN KEY(job) REFERENCES pafu_jobs (id) ON DELETE CASCADE
);
INSERT INTO pafu_meta ("name", "value") VALUES ('schema', '1');
INSERT INTO pafu_jobs ("number", "id", "caller", "state", "model", "order", "remixed_from", "idempotency_key", "idempotency_digest", "fence", "beat", "failures", "chunks", "created_at", "started_at", "finished_at", "expires_at", "work_seconds", "error_code", "error_message", "results") VALUES (1, 'done', 'me', 'completed', 'test-tiny', '{"model":"test-tiny","prompt":"a bar","seed":1,"width":128,"height":128,"fps":16,"pictures":30,"cache":{"policy":"window","budget_latents":6.0,"sink_latents":0,"recent_latents":3},"given_chunks":0}', NULL, 'key', 'digest', 1, 4, 0, 2, 1000.0, 1000.0, 1000.0, 1100.0, 1.0, NULL, NULL, '{"video":"done/video.mp4","thumbnail":"done/t.webp","spritesheet":"done/s.jpg","nbytes":5}');
INSERT INTO pafu_jobs ("number", "id", "caller", "state", "model", "order", "remixed_from", "idempotency_key", "idempotency_digest", "fence", "beat", "failures", "chunks", "created_at", "started_at", "finished_at", "expires_at", "work_seconds", "error_code", "error_message", "results") VALUES (2, 'waiting', 'you', 'queued', 'test-tiny', '{"model":"test-tiny","prompt":"a mill''s sail","seed":1,"width":128,"height":128,"fps":16,"pictures":30,"cache":{"policy":"window","budget_latents":6.0,"sink_latents":0,"recent_latents":3},"given_chunks":0}', 'done', NULL, NULL, 0, 0, 0, 0, 1000.0, NULL, NULL, NULL, 0.0, NULL, NULL, NULL);
INSERT INTO pafu_chunks ("job", "number", "media", "past") VALUES ('done', 0, 'done/0.m4s', 'done/0.past');
INSERT INTO pafu_chunks ("job", "number", "media", "past") VALUES ('done', 1, 'done/1.m4s', 'done/1.past');
