// The endpoints that generate: /v1/chat/completions and /v1/completions.
#include <ctime>
#include <random>

#include "api/answer_format_fields.hpp"
#include "api/application_call.hpp"
#include "api/json_input.hpp"

namespace troupe::api {

api_result<void> application::check_model(const std::string& name) const {
  // "default" and no name at all mean the one model that is served.
  if (!name.empty() && name != "default" && !model_->is_named(name))
    return tl::make_unexpected(model_not_found(name));
  return {};
}

api_result<void> application::check_admission() const {
  if (draining_) return tl::make_unexpected(from_error({ec::draining, {}}));
  return {};
}

api_result<answer_head> application::head_for(const common_request& common, bool chat) const {
  API_CHECK(check_model(common.model));
  answer_head head;
  head.id = (chat ? "chatcmpl-" : "cmpl-") + random_id();
  head.created = std::time(nullptr);
  head.model = model_->is_named(common.model) ? common.model : model_->names.front();
  head.fingerprint = fingerprint_;
  head.chat = chat;
  return head;
}

void application::start_job(call& c, answer_plan plan) {
  if (plan.common.sampling.format.kind == engine::structured::format_kind::text)
    metrics_->free_answer();
  plan.request_id = c.id;
  plan.tenant = c.tenant;
  plan.received = c.request.received;
  plan.ping = options_.ping;
  plan.timeout = plan.common.timeout_s > 0
                     ? std::min(options_.generation_timeout,
                                std::chrono::milliseconds(static_cast<std::int64_t>(
                                    static_cast<double>(plan.common.timeout_s) * 1000)))
                     : options_.generation_timeout;
  if (!plan.common.has_seed) {
    std::random_device random;
    plan.common.sampling.seed = (static_cast<std::uint64_t>(random()) << 32) | random();
  }
  // The body is not needed any more, and the answer may take long.
  c.request.body = {};
  auto self = c.shared_from_this();
  ++*in_flight_;
  auto job = std::make_shared<completion_job>(
      service_, model_, metrics_, std::move(plan), c.to,
      [self](http_response& r) { self->decorate(r); },
      [self, count = in_flight_](int status) {
        self->count(status);
        --*count;
      });
  job->start();
}

void application::chat_completions(call& c) {
  auto plan = [&]() -> api_result<answer_plan> {
    API_TRY(auto body, parse_json(c.request.body));
    keep_schema_order(body, c.request.body);
    API_TRY(auto request, parse_chat(body, limits_));
    answer_plan out;
    API_TRY(out.head, head_for(request.common, true));
    API_CHECK(check_admission());
    API_TRY(out.calls, constrain_calls(*model_, request, limits_.form_checked));
    if (out.calls && !model_->tools.tools_in_template)
      c.warning =
          "the model's template does not know tools: they are described in a system message";
    answer_plan::prompt prompt;
    API_TRY(prompt.tokens, tokenize_chat(*model_, request));
    API_TRY(prompt.max_tokens, answer_length(*model_, max_model_len(), prompt.tokens.size(),
                                             request.common.max_tokens, std::nullopt, "messages"));
    out.prompts.push_back(std::move(prompt));
    out.common = std::move(request.common);
    return out;
  }();
  if (!plan) return c.fail(plan.error());
  start_job(c, std::move(*plan));
}

void application::completions(call& c) {
  auto plan = [&]() -> api_result<answer_plan> {
    API_TRY(auto body, parse_json(c.request.body));
    keep_schema_order(body, c.request.body);
    API_TRY(auto request, parse_completion(body, limits_));
    answer_plan out;
    API_TRY(out.head, head_for(request.common, false));
    API_CHECK(check_admission());
    for (auto& p : request.prompts) {
      answer_plan::prompt prompt;
      if (request.suffix.empty()) {
        API_TRY(prompt.tokens, tokenize_prompt(*model_, p, request.add_special_tokens));
      } else {
        API_TRY(prompt.tokens,
                tokenize_infill(*model_, p.text, request.suffix, request.add_special_tokens));
      }
      API_TRY(
          prompt.max_tokens,
          answer_length(*model_, max_model_len(), prompt.tokens.size(), request.common.max_tokens,
                        request.common.to_the_end ? std::nullopt : std::optional(16u), "prompt"));
      if (request.echo)
        prompt.text = p.is_tokens
                          ? model_->tokenizer->decode(p.tokens, !request.common.skip_special_tokens)
                          : std::move(p.text);
      out.prompts.push_back(std::move(prompt));
    }
    out.echo = request.echo;
    out.common = std::move(request.common);
    return out;
  }();
  if (!plan) return c.fail(plan.error());
  start_job(c, std::move(*plan));
}

}  // namespace troupe::api
