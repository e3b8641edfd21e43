"""Models of transformers as modules of Flax NNX and Equinox, trained beside the original."""

import copy

import numpy as np
import pytest

from bridge import to_torch, torch2jax

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
transformers = pytest.importorskip("transformers")

TOKENS = np.array([[3, 5, 7, 1], [2, 9, 4, 6]], "int32")
SIZES = {"vocab_size": 11, "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 8}


@pytest.fixture
def bert():
    torch.manual_seed(0)
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    sizes = {**SIZES, "intermediate_size": 12, "max_position_embeddings": 8}
    return transformers.BertModel(transformers.BertConfig(**sizes, **rates)).train()


def objective(model):
    return (model(input_ids=TOKENS).last_hidden_state ** 3).sum()


def step_natively(module):
    states = module(input_ids=torch.tensor(TOKENS).long()).last_hidden_state
    (states**3).sum().backward()
    torch.optim.SGD(module.parameters(), 0.1).step()
    return states


def same_tensors(back, module):
    for name, expected in module.state_dict().items():
        np.testing.assert_allclose(back.state_dict()[name], expected, rtol=1e-3, atol=1e-5)


def test_a_step_in_equinox_needs_no_state(bert):
    eqx = pytest.importorskip("equinox")
    model = torch2jax(copy.deepcopy(bert)).to_equinox()
    assert model.embeddings.position_ids.tolist() == [[*range(8)]]
    states = model(input_ids=TOKENS).last_hidden_state
    gradients = eqx.filter_grad(objective)(model)
    trained = eqx.apply_updates(model, jax.tree.map(lambda g: -0.1 * g, gradients))
    expected = step_natively(bert)
    np.testing.assert_allclose(states, expected.detach(), rtol=1e-3, atol=1e-5)
    same_tensors(to_torch(trained), bert)


def test_a_step_in_nnx(bert):
    nnx, optax = pytest.importorskip("flax.nnx"), pytest.importorskip("optax")
    model = torch2jax(copy.deepcopy(bert)).to_nnx()
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
    optimizer.update(model, nnx.grad(objective)(model))
    step_natively(bert)
    same_tensors(to_torch(model), bert)
