"""A chat template renders conversations, and cannot do anything else."""

import pytest

from hybrid.engine.chat_template import ChatTemplate
from hybrid.errors import InvalidRequest, LocalFailure, ModelFileError

USER = [{"role": "user", "content": "hi"}]


def _template(source: str | None) -> ChatTemplate:
    return ChatTemplate(source, bos_text="<s>", eos_text="</s>")


def test_a_file_without_a_template_gets_chatml():
    """The fallback is ChatML with the assistant's turn opened."""
    expected = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"

    assert expected == _template(None).render(USER)


def test_specials_and_loop_controls_are_there():
    """Templates may use bos_token, eos_token, break and continue, as Hugging Face's do."""
    source = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% break %}{% endfor %}{{ eos_token }}"

    assert _template(source).render(USER) == "<s>hi</s>"


def test_tools_and_variables_are_rendered_as_templates_expect():
    """`tojson` keeps key order and characters, as in Hugging Face's, and absent tools are None, not an empty list."""
    source = "{% if tools is not none %}{{ tools[0] | tojson }}{% endif %}{{ enable_thinking }}"
    tools = [{"z": "<ä>", "a": 1}]

    assert (
        _template(source).render(USER, tools=tools, variables={"enable_thinking": False}) == '{"z": "<ä>", "a": 1}False'
    )
    assert _template(source).render(USER) == ""


def test_a_refusing_template_is_the_callers_fault():
    """raise_exception becomes a 400 in the template's own words."""
    with pytest.raises(InvalidRequest, match="roles must alternate"):
        _template("{{ raise_exception('roles must alternate') }}").render(USER)


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("{{ ''.__class__.__mro__[1].__subclasses__() }}", id="subclasses"),
        pytest.param("{{ messages.append(1) }}", id="mutation"),
        pytest.param("{{ cycler.__init__.__globals__ }}", id="globals"),
        pytest.param("{{ undefined_thing.field }}", id="undefined"),
        pytest.param("{{ 1 // 0 }}", id="arithmetic"),
    ],
)
def test_hostile_and_broken_templates_fail_cleanly(source):
    """What the sandbox forbids and what is simply broken is a local failure that names the template."""
    with pytest.raises(LocalFailure, match="template"):
        _template(source).render(USER)


def test_an_endless_template_is_interrupted():
    """A loop that calls nothing and prints nothing still ends, at the time limit."""
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(LocalFailure, match="did not end"):
        _template(loop).render(USER)


def test_a_huge_output_is_cut_short():
    """A template that multiplies its text without end is stopped at the size limit."""
    grow = "{% for a in range(99999) %}{{ 'x' * 99999 }}{% endfor %}"
    with pytest.raises(LocalFailure, match=r"characters|did not end"):
        _template(grow).render(USER)


def test_a_template_that_does_not_compile_is_a_fault_of_the_file():
    """A syntax error is told at load time."""
    with pytest.raises(ModelFileError, match="does not compile"):
        _template("{% if %}")
