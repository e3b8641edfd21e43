"""Models of transformers, tiny and of random weights, as functions of other frameworks."""

import numpy as np
import pytest

from bridge import ArgumentError, torch2jax, torch2mlx
from tests.processes import fresh_process

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
transformers = pytest.importorskip("transformers")
jnp = jax.numpy

TOKENS = np.array([[1, 5, 7, 2], [3, 3, 0, 9]])
MASK = np.array([[0, 1, 1, 1], [1, 1, 1, 1]])
SIZES = {
    "GPT2": {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 8},
    "Llama": {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 8,
    },
}
HEADS = {"GPT2": "GPT2LMHeadModel", "Llama": "LlamaForCausalLM"}


def language_model(name, **options):
    torch.manual_seed(0)
    tokens = {"vocab_size": 10, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = getattr(transformers, f"{name}Config")(**tokens, **SIZES[name], **options)
    return getattr(transformers, HEADS[name])(config).eval()


def native_gradients(module, **arguments):
    output = module(**{name: torch.tensor(x) for name, x in arguments.items()}, use_cache=False)
    (output.logits**2).sum().backward()
    return output, {name: parameter.grad for name, parameter in module.named_parameters()}


def check(found, expected):
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[name], gradient, rtol=1e-2, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("lower", ["ffi", "xla"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", SIZES)
def test_a_language_model_is_captured(name, attention, lower):
    module = language_model(name, attn_implementation=attention)
    there = torch2jax(module, capture="require", lower=lower)
    arguments = {"input_ids": jnp.asarray(TOKENS), "attention_mask": jnp.asarray(MASK)}

    def loss(params):
        output, _ = there.apply(params, there.buffers, **arguments, use_cache=False)
        assert type(output) is type(native)
        assert [*output] == ["logits"]
        return (output["logits"] ** 2).sum(), output.logits

    native, gradients = native_gradients(module, input_ids=TOKENS, attention_mask=MASK)
    found, logits = jax.grad(loss, has_aux=True)(there.params)
    np.testing.assert_allclose(logits, native.logits.detach(), rtol=1e-3, atol=1e-5)
    check(found, gradients)


def test_labels_of_a_language_model():
    module = language_model("GPT2")
    there = torch2jax(module, capture="require", integers="int64")
    tokens = jnp.asarray(TOKENS)

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        output, _ = there.apply(
            params, there.buffers, input_ids=tokens, labels=tokens, use_cache=False
        )
        return output.loss

    value, found = loss(there.params)
    native = module(input_ids=torch.tensor(TOKENS), labels=torch.tensor(TOKENS)).loss
    native.backward()
    np.testing.assert_allclose(value, native.detach(), rtol=1e-5)
    check(found, {name: parameter.grad for name, parameter in module.named_parameters()})


def test_a_language_model_in_mlx():
    mx = pytest.importorskip("mlx.core")
    nn, utils = pytest.importorskip("mlx.nn"), pytest.importorskip("mlx.utils")
    module = language_model("Llama")
    there = torch2mlx(module, capture="require")
    loss = lambda tokens: (there(input_ids=tokens, use_cache=False).logits ** 2).sum()
    _, gradients = nn.value_and_grad(there, loss)(mx.array(TOKENS))
    found = dict(utils.tree_flatten(gradients))
    check(found, native_gradients(module, input_ids=TOKENS)[1])


def test_a_result_of_one_field_stays_its_class():
    module = language_model("GPT2").transformer
    there = torch2jax(module, capture="require")
    output, _ = there.apply(
        there.params, there.buffers, input_ids=jnp.asarray(TOKENS), use_cache=False
    )
    native = module(input_ids=torch.tensor(TOKENS), use_cache=False)
    assert type(output) is type(native)
    np.testing.assert_allclose(
        output.last_hidden_state, native.last_hidden_state.detach(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("capture", ["require", "never"])
def test_hidden_states_and_the_module_afterwards(capture):
    """They are collected by hooks, which the module installs in its first call."""
    module = language_model("GPT2", attn_implementation="eager")
    there = torch2jax(module, capture=capture)
    options = {"output_hidden_states": True, "output_attentions": True, "use_cache": False}
    output, _ = there.apply(there.params, there.buffers, input_ids=jnp.asarray(TOKENS), **options)
    native = module(input_ids=torch.tensor(TOKENS), **options)
    for name in ("hidden_states", "attentions"):
        assert len(output[name]) == len(native[name]) == {"hidden_states": 2}.get(name, 1)
        for x, y in zip(output[name], native[name], strict=True):
            np.testing.assert_allclose(x, y.detach(), rtol=1e-4, atol=1e-5)


def errors_of_a_cache():
    from transformers.integrations import executorch

    there = torch2jax(language_model("GPT2"))
    errors = []
    for register in (lambda: None, executorch.register_dynamic_cache_export_support):
        register()
        with pytest.raises(ArgumentError) as raised:
            there.apply(there.params, there.buffers, input_ids=jnp.asarray(TOKENS), use_cache=True)
        errors.append(str(raised.value))
    return errors


def test_a_cache_among_the_results_is_refused():
    """Also where it is registered as a pytree, as for `torch.export`."""
    unknown, registered = fresh_process(errors_of_a_cache)
    place = "result[0][1] of GPT2LMHeadModel is a DynamicCache, "
    advice = ". Return its arrays, or call the function without it (`use_cache=False`)."
    assert unknown.startswith(f"{place}no array of torch or number")
    assert registered.startswith(f"{place}which cannot be rebuilt around arrays of jax (TypeError")
    assert unknown.endswith(advice)
    assert registered.endswith(advice)


def check_sharded_gradient():
    jax.config.update("jax_num_cpu_devices", 4)
    module = language_model("GPT2")
    there = torch2jax(module, lower="xla", capture="require")
    mesh = jax.make_mesh((4,), ("model",))

    def shard(x):
        axes = ("model",) if x.shape[0] % 4 == 0 else ()
        return jax.device_put(x, jax.NamedSharding(mesh, jax.P(*axes)))

    params = {name: shard(x) for name, x in there.params.items()}
    assert sum(not x.sharding.is_fully_replicated for x in params.values()) > 10
    tokens = jnp.asarray(TOKENS)

    def loss(params):
        output, _ = there.apply(params, there.buffers, input_ids=tokens, use_cache=False)
        return (output.logits**2).sum()

    found = jax.jit(jax.grad(loss))(params)
    assert all(len(x.sharding.device_set) == 4 for x in found.values())
    check(found, native_gradients(module, input_ids=TOKENS)[1])
    return len(found)


def test_a_gradient_with_sharded_parameters():
    assert fresh_process(check_sharded_gradient) > 10
