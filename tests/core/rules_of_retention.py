"""What becomes of ended jobs whose time is over, in Redis and in the model."""

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from core.redis_steps import RedisClient
from core.retention import Kept
from tests.core.store_machine import ANY, LOSES_REPLY, StoreMachine, latest


class RetentionRules(StoreMachine):
    def __init__(self, redis: RedisClient) -> None:
        super().__init__(redis)
        self.expired: list[tuple[Kept, list[str]]] = []  # all that was ever found, the oldest first

    @precondition(lambda self: any(job.kept for job in self.model.jobs.values()))
    @rule(what=st.sampled_from(Kept), most=st.sampled_from([1, 2, 100]))
    def look_for_what_expired(self, what: Kept, most: int) -> None:
        expected = []
        for job_id in self.was.due(f"kept:{what}")[:most]:
            job = self.model.jobs[job_id]
            if what is Kept.RESULTS and self.model.owes(job):
                job.results_are_held_back = True
            else:
                expected.append((job_id, job.result_key, job.new.source))
        found = self.retention.expired(what, lifetime_s=0, limit=most)
        assert [(job.job_id, job.result_key, job.source) for job in found] == expected
        if expected:
            self.expired.append((what, [job_id for job_id, _, _ in expected]))

    @precondition(lambda self: self.expired)
    @rule(which=ANY, loses_reply=LOSES_REPLY)
    def tell_that_its_files_are_gone(self, which: int, loses_reply: bool) -> None:
        """Also of a job that was deleted meanwhile, or was told of before."""
        what, ids = latest(self.expired, which)
        for job in [self.model.jobs[job_id] for job_id in ids if job_id in self.model.jobs]:
            self.model.expire(job, what)
        self.done(lambda: self.retention.let_go(what, ids), loses_reply)

    @precondition(lambda self: any(job.results_are_held_back for job in self.model.jobs.values()))
    @rule(which=ANY)
    def held_back_results_come_to_their_turn(self, which: int) -> None:
        job = latest([job for job in self.model.jobs.values() if job.results_are_held_back], which)
        job.results_are_held_back = False
        self.run_out("kept:results", job.new.id)
