# ruff: noqa: F811, F401
from tests.desk.api_contract import run
from tests.desk.running import history, install
import time, os
def test_it(install, tmp_path):
    i = install(overrides={"TAPELINE_DESK_REQUESTS_PER_SECOND": "100000", "TAPELINE_REPLAY_SESSIONS": "1"})
    i.start()
    t=time.time()
    rc, said = run(i, tmp_path, int(os.environ.get("N","5")), *(os.environ.get("P","").split(",") if os.environ.get("P") else ()))
    open("/tmp/w/n_schema.txt","w").write(f"{rc} {time.time()-t}\n{said}")
    open("/tmp/w/n_desk.log","w").write(i.log())
