// Llama and the models that share its graph: pre-norm decoder, grouped-query attention, rotary
// positions, SwiGLU. Names: GGUF's tensor table (gguf-py/gguf/tensor_mapping.py) and transformers'
// modeling_llama.py, _qwen2, _qwen3.
#include "model/architecture.hpp"

namespace troupe::model {

namespace {

using global_slot = weight_slot<model_weights>;
using layer_slot = weight_slot<layer_weights>;
using w = layer_weights;

constexpr global_slot global[] = {
    {"token_embd.weight", "model.embed_tokens.weight", &model_weights::embed_tokens, extent::vocab,
     extent::hidden},
    {"output_norm.weight", "model.norm.weight", &model_weights::norm, extent::one, extent::hidden},
    {"output.weight", "lm_head.weight", &model_weights::lm_head, extent::vocab, extent::hidden,
     true},
};

constexpr layer_slot attn_norm = {"attn_norm.weight", "input_layernorm.weight", &w::attn_norm,
                                  extent::one, extent::hidden};
constexpr layer_slot q_proj = {"attn_q.weight", "self_attn.q_proj.weight", &w::q_proj,
                               extent::query, extent::hidden};
constexpr layer_slot k_proj = {"attn_k.weight", "self_attn.k_proj.weight", &w::k_proj,
                               extent::key_value, extent::hidden};
constexpr layer_slot v_proj = {"attn_v.weight", "self_attn.v_proj.weight", &w::v_proj,
                               extent::key_value, extent::hidden};
constexpr layer_slot o_proj = {"attn_output.weight", "self_attn.o_proj.weight", &w::o_proj,
                               extent::hidden, extent::query};
constexpr layer_slot q_bias = {"attn_q.bias", "self_attn.q_proj.bias", &w::q_bias, extent::one,
                               extent::query};
constexpr layer_slot k_bias = {"attn_k.bias", "self_attn.k_proj.bias", &w::k_bias, extent::one,
                               extent::key_value};
constexpr layer_slot v_bias = {"attn_v.bias", "self_attn.v_proj.bias", &w::v_bias, extent::one,
                               extent::key_value};
constexpr layer_slot q_norm = {"attn_q_norm.weight", "self_attn.q_norm.weight", &w::q_norm,
                               extent::one, extent::head};
constexpr layer_slot k_norm = {"attn_k_norm.weight", "self_attn.k_norm.weight", &w::k_norm,
                               extent::one, extent::head};
constexpr layer_slot ffn_norm = {"ffn_norm.weight", "post_attention_layernorm.weight", &w::ffn_norm,
                                 extent::one, extent::hidden};
constexpr layer_slot gate_proj = {"ffn_gate.weight", "mlp.gate_proj.weight", &w::gate_proj,
                                  extent::intermediate, extent::hidden};
constexpr layer_slot up_proj = {"ffn_up.weight", "mlp.up_proj.weight", &w::up_proj,
                                extent::intermediate, extent::hidden};
constexpr layer_slot down_proj = {"ffn_down.weight", "mlp.down_proj.weight", &w::down_proj,
                                  extent::hidden, extent::intermediate};

constexpr layer_slot optional(layer_slot slot) {
  slot.optional = true;
  return slot;
}

// Llama with attention_bias has the same three biases as Qwen2, without o_proj's it is the same
// graph.
constexpr layer_slot llama_layer[] = {
    attn_norm,        q_proj,           k_proj,   v_proj,    o_proj,  optional(q_bias),
    optional(k_bias), optional(v_bias), ffn_norm, gate_proj, up_proj, down_proj};
constexpr layer_slot qwen2_layer[] = {attn_norm, q_proj, k_proj,   v_proj,    o_proj,  q_bias,
                                      k_bias,    v_bias, ffn_norm, gate_proj, up_proj, down_proj};
constexpr layer_slot qwen3_layer[] = {attn_norm, q_proj,   k_proj,    v_proj,  o_proj,   q_norm,
                                      k_norm,    ffn_norm, gate_proj, up_proj, down_proj};

constexpr std::string_view llama_classes[] = {"LlamaForCausalLM", "MistralForCausalLM"};
constexpr std::string_view qwen2_classes[] = {"Qwen2ForCausalLM"};
constexpr std::string_view qwen3_classes[] = {"Qwen3ForCausalLM"};

}  // namespace

constinit const architecture llama_architecture = {"llama", llama_classes, true, global,
                                                   llama_layer};
constinit const architecture qwen2_architecture = {"qwen2", qwen2_classes, false, global,
                                                   qwen2_layer};
constinit const architecture qwen3_architecture = {"qwen3", qwen3_classes, false, global,
                                                   qwen3_layer};

}  // namespace troupe::model
