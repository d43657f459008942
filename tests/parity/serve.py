"""Holds `generator --http` against another OpenAI-compatible server, vLLM first of all.

    serve.py cases OURS THEIRS MODEL     the requests of serve_cases.py to both: fields, greedy tokens, errors
    serve.py speed OURS THEIRS MODEL [ROLLOUTS TOKENS]   tokens a second of both, in turns, in one run
    serve.py client OURS MODEL           the `openai` package, unchanged
    serve.py soak OURS MODEL PID MINUTES FOLDER [FOLDER]   random load, weights from the folders in turn every 5 s

Prints one JSON object. OURS and THEIRS are URLs without a path.
"""

import json
import random
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import serve_cases

UNEQUAL = {"id", "created", "system_fingerprint", "request_id"}


def ask(base, path, body, model="", timeout=900):
    data = body.encode() if isinstance(body, str) else json.dumps(body).replace('"MODEL"', json.dumps(model)).encode()
    request = urllib.request.Request(base + path, data=data, headers={"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            status, text = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read()
    try:
        return status, json.loads(text)
    except ValueError:
        return status, text.decode(errors="replace")


def same(a, b):
    """Equal but for names and times; numbers with a fraction within 2e-3, since both add up in their own order."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(key in UNEQUAL or same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) or isinstance(b, float):
        return isinstance(a, (int, float)) and isinstance(b, (int, float)) and abs(a - b) < 2e-3
    return a == b


def cases(ours, theirs, model):
    differ = {}
    for name, (path, body) in {**serve_cases.GOOD, **serve_cases.BAD}.items():
        (our_status, our), (their_status, their) = ask(ours, path, body, model), ask(theirs, path, body, model)
        if our_status != their_status:
            differ[name] = f"status {our_status}, theirs {their_status}"
        elif our_status == 200 and not same(our, their):
            differ[name] = {"ours": our, "theirs": their}
        elif our_status != 200:
            a, b = (answer.get("error", answer) if isinstance(answer, dict) else {} for answer in (our, their))
            wrong = [key for key in ("type", "param", "code") if isinstance(a, dict) and a.get(key) != b.get(key)]
            if wrong:
                differ[name] = {"fields": wrong, "ours": a, "theirs": b}
    return {"asked": len(serve_cases.GOOD) + len(serve_cases.BAD), "good": len(serve_cases.GOOD), "bad": len(serve_cases.BAD), "differ": differ}


def words(seed, count):
    draw = random.Random(seed)
    return [draw.randrange(1000, 40000) for _ in range(count)]


def complete(base, model, ids, count):
    body = {"model": model, "prompt": ids, "max_tokens": count, "temperature": 1.0, "ignore_eos": True, "return_token_ids": True}
    status, answer = ask(base, "/v1/completions", body)
    assert status == 200, answer
    return answer["choices"][0]["token_ids"]


def sixteen(base, model, salt):
    started = time.time()
    with ThreadPoolExecutor(16) as pool:
        count = sum(len(ids) for ids in pool.map(lambda i: complete(base, model, words((salt, i).__hash__(), 32), 64), range(16)))
    return count / (time.time() - started)


def rollouts(base, model, salt, number=64, turns=5, reply=16):
    """Each turn adds 40 tokens of observation; all share a system prompt of 600."""
    system = words(salt, 600)

    def one(rollout):
        tokens, sampled = list(system), 0
        for turn in range(turns):
            tokens += words((salt, rollout, turn).__hash__(), 40)
            answer = complete(base, model, tokens, reply)
            tokens += answer
            sampled += len(answer)
        return sampled

    started = time.time()
    with ThreadPoolExecutor(number) as pool:
        count = sum(pool.map(one, range(number)))
    return count / (time.time() - started)


def speed(ours, theirs, model, number=64, reply=16):
    def shared(base, model, salt):
        return rollouts(base, model, salt, int(number), 5, int(reply))

    for base in (ours, theirs):
        complete(base, model, words(1, 32), 4)
    result = {}
    for name, run in (("sequences_16x64", sixteen), (f"rollouts_{number}x5x{reply}", shared)):
        rates = {"ours": [], "theirs": []}
        for salt in (1, 2):
            rates["ours"].append(run(ours, model, salt))
            rates["theirs"].append(run(theirs, model, salt))
        mean = {key: sum(values) / len(values) for key, values in rates.items()}
        result[name] = {"ours_tokens_per_s": mean["ours"], "theirs_tokens_per_s": mean["theirs"], "ratio": mean["ours"] / mean["theirs"]}
        print(json.dumps(result), file=sys.stderr, flush=True)
    return result


def client(ours, model):
    import openai

    api = openai.OpenAI(base_url=ours + "/v1", api_key="none")
    whole = api.completions.create(model=model, prompt="The capital of France is", max_tokens=8, temperature=0)
    chunks = api.completions.create(model=model, prompt="The capital of France is", max_tokens=8, temperature=0, stream=True)
    streamed = "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
    messages = [{"role": "user", "content": "Name three colours."}]
    chat = api.chat.completions.create(model=model, messages=messages, max_tokens=8, temperature=0, logprobs=True, top_logprobs=2)
    parts = api.chat.completions.create(model=model, messages=messages, max_tokens=8, temperature=0, stream=True, stream_options={"include_usage": True})
    parts = list(parts)
    said = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    refused = ""
    try:
        api.completions.create(model="nobody", prompt="x")
    except openai.NotFoundError as error:
        refused = error.body["type"]
    return {
        "models": [entry.id for entry in api.models.list().data],
        "streamed_is_whole": streamed == whole.choices[0].text,
        "chat_streamed_is_whole": said == chat.choices[0].message.content,
        "logprobs": len(chat.choices[0].logprobs.content),
        "usage_in_stream": parts[-1].usage.completion_tokens,
        "unknown_model": refused,
    }


def resident_mib(pid):
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmRSS"))


def counter(base, name):
    with urllib.request.urlopen(base + "/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"vllm:{name}{{"))


def soak(ours, model, pid, minutes, folders):
    """Conversations of random lengths, each turn going on from the last one's reply; some are left in mid-reply."""
    until, lock = time.time() + 60 * minutes, threading.Lock()
    counts = {"asked": 0, "answered": 0, "left_by_the_client": 0, "failed": 0, "turns_after_the_first": 0}

    def count(key):
        with lock:
            counts[key] += 1

    def leave(body):
        """Goes away before the reply is there."""
        host, port = ours.split("//")[1].split(":")
        data = json.dumps(body).encode()
        with socket.create_connection((host, int(port)), timeout=60) as stream:
            head = f"POST /v1/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
            stream.sendall(head.encode() + data)
            time.sleep(0.01)

    def load(worker):
        draw = random.Random(worker)
        while time.time() < until:
            tokens = [draw.randrange(20, 200) for _ in range(draw.randrange(1, 100))]
            for turn in range(draw.randrange(1, 6)):
                body = {"model": model, "prompt": tokens, "max_tokens": draw.randrange(1, 40), "return_token_ids": True, "seed": draw.randrange(1 << 30)}
                if draw.random() < 0.02:
                    leave(body)
                    count("left_by_the_client")
                    break
                count("asked")
                if turn > 0:
                    count("turns_after_the_first")
                status, answer = ask(ours, "/v1/completions", body, timeout=120)
                count("answered")
                if status != 200 or len(answer["choices"]) != 1:
                    count("failed")
                    break
                tokens = tokens + answer["choices"][0]["token_ids"] + [draw.randrange(20, 200) for _ in range(8)]
                if len(tokens) > 200:
                    break

    before = {name: counter(ours, name) for name in ("prefix_cache_hits_total", "prefix_cache_queries_total")}
    threads = [threading.Thread(target=load, args=(worker,)) for worker in range(8)]
    [thread.start() for thread in threads]
    memory, pauses, started = [], [], time.time()
    while time.time() < until:
        body = {"update_info": {"path": folders[len(pauses) % len(folders)], "weight_version": str(len(pauses))}}
        status, answer = ask(ours, "/update_weights", body)
        assert status == 200, answer
        pauses.append(answer["pause_seconds"])
        memory.append(((time.time() - started) / 60, resident_mib(pid)))
        time.sleep(5)
    [thread.join(120) for thread in threads]
    stuck = sum(thread.is_alive() for thread in threads)
    hits, queries = (counter(ours, name) - before[name] for name in ("prefix_cache_hits_total", "prefix_cache_queries_total"))
    later = memory[len(memory) // 4 :]
    x, y = sum(t for t, _ in later) / len(later), sum(m for _, m in later) / len(later)
    slope = sum((t - x) * (m - y) for t, m in later) / max(sum((t - x) ** 2 for t, _ in later), 1e-9)
    load_left = json.loads(urllib.request.urlopen(ours + "/load", timeout=60).read())["server_load"]
    return {"minutes": minutes, **counts, "stuck": stuck, "left_in_the_server": load_left, "weight_changes": len(pauses), "longest_pause_s": max(pauses),
            "prompt_tokens_a_turn": queries / counts["asked"], "cached_tokens_a_turn": hits / counts["asked"],
            "memory_mib": later[-1][1], "memory_slope_mib_per_min": slope}


def main():
    mode, rest = sys.argv[1], sys.argv[2:]
    if mode == "soak":
        result = soak(rest[0], rest[1], int(rest[2]), float(rest[3]), rest[4:])
    else:
        result = {"cases": cases, "speed": speed, "client": client}[mode](*rest)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
