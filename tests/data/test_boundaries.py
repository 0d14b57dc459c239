r"""The search for the blank line's token is counted, not believed."""

from small_tokenizers import llama3_style

from stepjepa.data.boundaries import count_boundaries, llama3_style_tokenizer
from stepjepa.data.sources import make_example, read_examples


def test_the_counts_of_a_literal_example():
    r"""Of three boundaries only the one after ``so 72`` is the token of its own; two headers have it too."""
    tokenizer = llama3_style()
    steps = ["First we add 3 + 4.", "That gives 7", "Then we double it.", "The answer is \\boxed{14}."]
    count = count_boundaries([make_example("How many?", steps, "14", "test", None)], tokenizer)
    assert (count.examples, count.boundaries, count.hits) == (1, 3, 1)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "How many?"}], add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert count.outside == ids.count(tokenizer.convert_tokens_to_ids("ĊĊ")) > 0


def test_the_tokenizer_made_on_the_spot_glues_line_ends_to_full_stops():
    examples, _ = read_examples("builtin", count=50)
    tokenizer = llama3_style_tokenizer(example["messages"][-1]["content"] for example in examples)
    assert len(tokenizer) <= 1024
    assert ".ĊĊ" in tokenizer.tokenize("points.\n\nShe")
    assert len(tokenizer.encode("\n\n", add_special_tokens=False)) == 1
    count = count_boundaries(examples, tokenizer)
    assert (count.examples, count.boundaries, count.hits, count.outside) == (50, count.boundaries, 0, 100)
    assert count.boundaries == sum(example["total_steps"] - 1 for example in examples)
    assert "finds 0 of them (0%) and 100 places that are none" in str(count)
