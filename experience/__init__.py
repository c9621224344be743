"""Experience: know-how in words that grows while tasks are served, and is put into prompts (Self-Evolving GPT).

    memory = Memory.open("runs/memory", SentenceEmbedder.load())
    learner = Learner(Prompter(OpenAIChat(base_url, model), Spending()), memory, references)
    served = await learner.serve("run/17", question.prompt)

One question goes through `taxonomy` (which type of task is it?), `transfer` (what do other types know?), `practice`
(make questions of the type, answer and judge them), `induction` (what do right and wrong answers teach?) and
`answering`; `learning` has the order. `memory` keeps what was learned, every version of it, and `utility` says by
paired outcomes what it is worth. `advice` puts it into the prompts of a run, and `keeper` learns from the run's
episodes. All of it is plain Python against the two protocols of `protocols`: no Ray, no vLLM. docs/experience.md tells
what is the paper's and what is ours.
"""
