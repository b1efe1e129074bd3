"""Continues token ids with vLLM's offline class, in a process of its own.

python offline_script.py MODEL OPTIONS < JOBS    options and jobs are JSON; a job has ids, steers, sampling parameters
"""

import json
import sys

from vllm import LLM, SamplingParams


def main() -> None:
    model, options, jobs = sys.argv[1], json.loads(sys.argv[2]), json.load(sys.stdin)
    own = {"dtype": "float32", "max_model_len": 128, "enforce_eager": True, "disable_log_stats": False}
    llm = LLM(model, **{**own, **options})
    params = [
        SamplingParams(
            **{"temperature": 0, "max_tokens": 8, "ignore_eos": True, **job.get("params", {})},
            extra_args={"steers": job["steers"], **job.get("limits", {})} if job.get("steers") else None,
        )
        for job in jobs
    ]
    prompts = [{"prompt_token_ids": job["ids"]} for job in jobs]
    for written in llm.generate(prompts, params, use_tqdm=False):
        outputs = [
            {
                "ids": [*output.token_ids],
                "log_p": [
                    line[token].logprob for line, token in zip(output.logprobs or [], output.token_ids, strict=False)
                ],
            }
            for output in written.outputs
        ]
        print("FOUND", json.dumps(outputs), flush=True)
    print("SECOND", json.dumps(llm.llm_engine.vllm_config.use_v2_model_runner), flush=True)
    accepted = [metric for metric in llm.get_metrics() if metric.name == "vllm:spec_decode_num_accepted_tokens"]
    print("ACCEPTED", json.dumps(sum(metric.value for metric in accepted)), flush=True)


if __name__ == "__main__":
    main()
