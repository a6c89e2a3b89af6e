// The endpoints that only tell: models, tokens, health, metrics, version, cluster, the page.
#include <algorithm>
#include <array>

#include "actors/metrics_text.hpp"
#include "api/application_call.hpp"
#include "api/json_input.hpp"

namespace troupe::api {
namespace {

ojson model_object(const served_model& m, const std::string& name, std::uint32_t max_model_len) {
  ojson meta;
  meta["architecture"] = m.architecture;
  meta["digest"] = m.digest;
  meta["vocab_size"] = m.tokenizer->vocab_size();
  ojson o;
  o["id"] = name;
  o["object"] = "model";
  o["created"] = m.created;
  o["owned_by"] = "troupe";
  o["root"] = m.names.front();
  o["max_model_len"] = max_model_len;
  o["meta"] = std::move(meta);
  return o;
}

// Names may hold slashes, which clients encode.
std::string percent_decoded(std::string_view text) {
  auto digit = [](char c) {
    return c >= '0' && c <= '9'                     ? c - '0'
           : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10
                                                    : -1;
  };
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && digit(text[i + 1]) >= 0 &&
        digit(text[i + 2]) >= 0) {
      out += static_cast<char>(digit(text[i + 1]) * 16 + digit(text[i + 2]));
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

}  // namespace

// What is promised is what can be served.
std::uint32_t application::max_model_len() const {
  const auto fits = service_.max_model_len();
  return fits == 0 ? model_->max_model_len : std::min(fits, model_->max_model_len);
}

void application::list_models(call& c) {
  ojson data = ojson::array();
  for (const auto& name : model_->names)
    data.push_back(model_object(*model_, name, max_model_len()));
  c.answer(ojson{{"object", "list"}, {"data", std::move(data)}});
}

void application::one_model(call& c) {
  const std::string name = percent_decoded(c.path.substr(std::string_view("/v1/models/").size()));
  if (!model_->is_named(name)) return c.fail(model_not_found(name));
  c.answer(model_object(*model_, name, max_model_len()));
}

void application::tokenize(call& c) {
  auto outcome = [&]() -> api_result<ojson> {
    API_TRY(auto body, parse_json(c.request.body));
    keep_schema_order(body, c.request.body);
    field_reader in(body);
    chat_request chat;
    text_or_tokens prompt;
    bool add_special_tokens = true, with_texts = false;
    in.text("model", chat.common.model, 0, 1024);
    in.boolean("return_token_strs", with_texts);
    const bool is_chat = in.find("messages") != nullptr;
    if (is_chat) {
      read_chat_fields(in, limits_, chat);
    } else if (!in.text("prompt", prompt.text, 0, std::string::npos) && !in.find("prompt") &&
               !in.text("content", prompt.text, 0, std::string::npos)) {  // llama.cpp's name
      in.fail(bad_field("prompt", "prompt or messages is missing.", "missing_required_parameter"));
    }
    in.boolean("add_special_tokens", add_special_tokens);
    if (in.failure()) return tl::make_unexpected(*in.failure());
    API_CHECK(check_model(chat.common.model));
    std::vector<token_id> ids;
    if (is_chat) {
      API_TRY(ids, tokenize_chat(*model_, chat));
    } else {
      ids = model_->tokenizer->encode(prompt.text, add_special_tokens);
    }
    ojson o;
    o["count"] = ids.size();
    o["max_model_len"] = max_model_len();
    o["tokens"] = ids;
    if (with_texts) {
      o["token_strs"] = ojson::array();
      for (token_id id : ids) o["token_strs"].push_back(model_->tokenizer->token_bytes(id, true));
    }
    return o;
  }();
  outcome ? c.answer(*outcome) : c.fail(outcome.error());
}

void application::detokenize(call& c) {
  auto outcome = [&]() -> api_result<ojson> {
    API_TRY(auto body, parse_json(c.request.body));
    field_reader in(body);
    std::string name;
    std::vector<token_id> ids;
    in.text("model", name, 0, 1024);
    if (const auto* tokens = in.find("tokens"); tokens && tokens->is_array())
      read_token_ids(in, "tokens", *tokens, limits_.vocab_size, ids);
    else
      in.fail(
          bad_field("tokens", "tokens must be a list of token ids.", "missing_required_parameter"));
    if (in.failure()) return tl::make_unexpected(*in.failure());
    API_CHECK(check_model(name));
    const std::string text = model_->tokenizer->decode(ids, true);
    return ojson{{"prompt", text}, {"content", text}};  // vLLM's name of it, and llama.cpp's
  }();
  outcome ? c.answer(*outcome) : c.fail(outcome.error());
}

void application::health(call& c) {
  const auto status = service_.status();
  const bool draining = draining_ || status.draining;
  if (status.ready && !draining) return c.answer(ojson{{"status", "ok"}});
  http_response response;
  response.status = 503;
  ojson body{{"status", draining ? "draining" : "starting"}};
  if (!draining && !status.loading.empty()) body["detail"] = status.loading;
  response.body = dump(body);
  response.headers.emplace_back("Retry-After", draining ? "5" : "1");
  c.answer(std::move(response));
}

void application::live(call& c) {
  c.answer(ojson{{"status", "alive"}});
}

void application::version(call& c) {
  c.answer(ojson{{"version", options_.version}, {"model_digest", model_->digest}});
}

void application::metrics_text(call& c) {
  auto self = c.shared_from_this();
  const bool accepted = background_.run([this, self] {
    const std::array texts{service_.metrics_text(options_.metrics_timeout), metrics_->text()};
    http_response response;
    response.content_type = "text/plain; version=0.0.4; charset=utf-8";
    response.body = actors::merge_metrics(texts);
    self->to->post(
        [self, response = std::move(response)]() mutable { self->answer(std::move(response)); });
  });
  if (!accepted) c.fail(http_error(503, "Too many scrapes of the metrics at once."));
}

std::string cluster_json(const actors::cluster_status& status) {
  ojson nodes = ojson::array();
  for (const auto& n : status.nodes) {
    ojson o;
    o["name"] = n.name;
    o["role"] = n.role;
    o["state"] = n.state;
    o["host"] = n.host;
    o["port"] = n.port;
    o["incarnation"] = std::to_string(n.incarnation);  // beyond what JavaScript's numbers hold
    o["model"] = n.model;
    o["device"] = n.device;
    o["kv_identity"] = n.kv_identity;
    o["running"] = n.running;
    o["waiting"] = n.waiting;
    o["blocks"] = ojson{{"total", n.blocks_total},
                        {"free", n.blocks_free},
                        {"cached", n.blocks_cached},
                        {"used", n.blocks_used},
                        {"quarantined", n.blocks_quarantined}};
    o["prompt_tokens"] = n.prompt_tokens;
    o["generated_tokens"] = n.generated_tokens;
    o["heartbeat_age_seconds"] = n.heartbeat_age_seconds;
    nodes.push_back(std::move(o));
  }
  ojson o;
  o["ready"] = status.ready;
  o["draining"] = status.draining;
  o["loading"] = status.loading;
  o["requests_in_flight"] = status.requests_in_flight;
  o["nodes"] = std::move(nodes);
  return dump(o);
}

void application::cluster(call& c) {
  auto status = service_.status();
  status.draining = status.draining || draining_;
  http_response response;
  response.body = cluster_json(status);
  c.answer(std::move(response));
}

void application::clear_cache(call& c) {
  auto self = c.shared_from_this();
  const bool accepted = background_.run([this, self] {
    ojson cleared;
    cleared["cleared_blocks"] = service_.clear_stores(options_.metrics_timeout);
    http_response response;
    response.body = cleared.dump();
    self->to->post(
        [self, response = std::move(response)]() mutable { self->answer(std::move(response)); });
  });
  if (!accepted) c.fail(http_error(503, "The server is busy with metrics: try again."));
}

// {"prompt": text} or {"hash": ...}, with "cache_salt", "ttl_s" (0: until unpinned) and "pinned" (false: unpin).
void application::pin_cache(call& c) {
  auto asked = [&]() -> api_result<actors::prefix_pin> {
    API_TRY(auto body, parse_json(c.request.body));
    field_reader in(body);
    actors::prefix_pin what;
    text_or_tokens prompt;
    std::uint32_t ttl_s = 0;
    in.text("prompt", prompt.text, 1, 16u << 20);
    in.text("hash", what.hash, 1, 128);  // pin_prefix says what is wrong with one
    in.text("cache_salt", what.cache_salt, 1, 1024);
    in.integer("ttl_s", ttl_s, 0, 366 * 86'400);
    in.boolean("pinned", what.pinned);
    if (in.failure()) return tl::make_unexpected(*in.failure());
    if (prompt.text.empty() == what.hash.empty())
      return tl::make_unexpected(bad_field("prompt", "Either a prompt or a hash is needed.",
                                           "missing_required_parameter"));
    what.ttl = std::chrono::seconds(ttl_s);
    if (what.hash.empty()) {
      API_TRY(what.tokens, tokenize_prompt(*model_, prompt, true));
    }
    return what;
  }();
  if (!asked) return c.fail(asked.error());
  auto self = c.shared_from_this();
  const bool accepted = background_.run([this, self, what = std::move(*asked)] {
    auto done = service_.pin_prefix(what, options_.metrics_timeout);
    self->to->post([self, pinned = what.pinned, done = std::move(done)] {
      if (!done) return self->fail(from_error(done.error()));
      self->answer(ojson{{pinned ? "pinned_blocks" : "unpinned_blocks", done->blocks},
                         {"hash", done->hash}});
    });
  });
  if (!accepted) c.fail(http_error(503, "Too many such calls at once."));
}

void application::drain_node(call& c) {
  struct wish {
    std::string node;
    std::uint32_t timeout_s = 30;
    bool restart = false, force = false;
  };
  auto asked = [&]() -> api_result<wish> {
    API_TRY(auto body, parse_json(c.request.body));
    field_reader in(body);
    wish w;
    in.text("node", w.node, 1, 256);
    in.integer("timeout_s", w.timeout_s, 0, 86'400);
    in.boolean("restart", w.restart);
    in.boolean("force", w.force);
    if (in.failure()) return tl::make_unexpected(*in.failure());
    if (w.node.empty())
      return tl::make_unexpected(bad_field("node",
                                           "node is missing: a name as GET /v1/cluster lists it.",
                                           "missing_required_parameter"));
    if (std::ranges::count(options_.own_nodes, w.node) > 0)
      return tl::make_unexpected(unsupported_field(
          "node", w.node + " is a part of the server's own process (--single-process), which it "
                           "can neither leave nor enter again: SIGTERM drains the whole server; "
                           "without --single-process each node is a process of its own."));
    return w;
  }();
  if (!asked) return c.fail(asked.error());
  auto self = c.shared_from_this();
  const bool accepted = background_.run([this, self, w = *asked] {
    auto done = service_.drain_node(w.node, std::chrono::seconds(w.timeout_s), w.restart, w.force);
    self->to->post([self, w, done = std::move(done)] {
      if (done) return self->answer(ojson{{"node", w.node}, {"state", "draining"}});
      auto e = from_error(done.error());
      e.message = done.error().detail;
      self->fail(e);
    });
  });
  if (!accepted) c.fail(http_error(503, "Too many such calls at once."));
}

void application::web_page(call& c) {
  if (!options_.web_ui) return c.fail(http_error(404, "The web page is switched off."));
  http_response response;
  response.content_type = "text/html; charset=utf-8";
  response.body = web_page_html();
  response.headers = {
      {"Cache-Control", "no-cache"},
      {"X-Content-Type-Options", "nosniff"},
      {"Content-Security-Policy",
       "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src "
       "'unsafe-inline'; "
       "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"}};
  c.answer(std::move(response));
}

}  // namespace troupe::api
