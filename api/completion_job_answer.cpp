// What a completion_job's client sees: frames of a stream, or the whole answer.
#include <algorithm>

#include "api/completion_job_choice.hpp"
#include "api/sse.hpp"

namespace troupe::api {

void completion_job::give(choice& c, choice_delta delta) {
  if (delta.empty()) return;
  if (c.parser) return give_calls(c, c.parser->push(delta.text), std::move(delta.logprobs));
  if (!plan_.common.stream) {
    c.text += delta.text;
    std::move(delta.logprobs.begin(), delta.logprobs.end(), std::back_inserter(c.entries));
    return;
  }
  ojson logprobs = options_.logprobs ? logprobs_of(delta.logprobs, 0, c.prompt_points) : ojson();
  ojson one = plan_.head.chat ? chat_choice_chunk(c.index, ojson{{"content", delta.text}},
                                                  std::move(logprobs), "")
                              : completion_choice(c.index, delta.text, std::move(logprobs), "");
  show(c, std::move(one));
}

void completion_job::give_calls(choice& c, std::vector<tool_event> events,
                                std::vector<logprob_entry> logprobs) {
  std::move(logprobs.begin(), logprobs.end(), std::back_inserter(c.entries));
  for (tool_event& e : events) {
    ojson delta;
    if (e.is == tool_event::kind::call) {
      c.calls.push_back({call_id(), std::move(e.what), {}});
      delta = call_begins(c.calls.size() - 1, c.calls.back());
    } else if (e.is == tool_event::kind::arguments) {
      delta = call_goes_on(c.calls.size() - 1, e.what);
      if (!plan_.common.stream) c.calls.back().arguments += e.what;
    } else {
      delta["content"] = e.what;
      if (!plan_.common.stream) c.text += e.what;
    }
    if (!plan_.common.stream) continue;
    // Of all tokens since the last piece: what is withheld is given with what follows.
    const auto entries = std::exchange(c.entries, {});
    ojson shown = options_.logprobs ? logprobs_of(entries, 0, 0) : ojson();
    show(c, chat_choice_chunk(c.index, std::move(delta), std::move(shown), ""));
  }
}

// Mistral's templates take back only ids of nine letters and digits.
std::string completion_job::call_id() const {
  using engine::structured::call_syntax;
  const auto syntax = plan_.calls->syntax;
  const bool is_short = syntax == call_syntax::mistral || syntax == call_syntax::mistral_args;
  return is_short ? random_id().substr(0, 9) : "call_" + random_id();
}

// The prompt's own text and logprobs, before the first of the answer's.
void completion_job::give_echo(choice& c) {
  if (!plan_.echo || std::exchange(c.echoed, true)) return;
  c.prompt_points = code_points(c.prompt.text);
  model::utf8_stream utf8;
  std::size_t points = 0;
  for (auto& entry : c.prompt_entries) {
    entry.text_offset = points;
    points += code_points(utf8.push(
        model_->tokenizer->token_bytes(entry.output.token, !options_.skip_special_tokens)));
  }
  if (!plan_.common.stream) {
    c.text = c.prompt.text;
    c.entries = c.prompt_entries;
    return;
  }
  ojson logprobs = c.prompt_entries.empty()
                       ? ojson()
                       : logprobs_of(c.prompt_entries, c.prompt_entries.size(), 0);
  show(c, completion_choice(c.index, c.prompt.text, std::move(logprobs), ""));
}

// The first prompt_entries of `entries` are the prompt's, whose first token has no logprob; the others' offsets
// count from base_offset.
ojson completion_job::logprobs_of(const std::vector<logprob_entry>& entries,
                                  std::size_t prompt_entries, std::size_t base_offset) const {
  const token_names names{*model_->tokenizer, plan_.common.return_tokens_as_token_ids};
  if (plan_.head.chat) return chat_logprobs(names, entries);
  auto shifted = entries;
  for (std::size_t i = prompt_entries; i < shifted.size(); ++i)
    shifted[i].text_offset += base_offset;
  return completion_logprobs(names, shifted, prompt_entries > 0 ? 1 : 0, 0);
}

// A chunk of a stream. OpenAI's have "usage": null where usage comes at the end.
void completion_job::show(const choice& c, ojson shown) {
  ojson o = chunk(plan_.head, std::move(shown));
  if (plan_.common.include_usage) o["usage"] = nullptr;
  if (plan_.common.continuous_usage)
    o["usage"] = usage_object({c.prompt.tokens.size(), c.output.tokens(), {}});
  frame(o);
}

void completion_job::frame(const ojson& object) {
  frames_ += sse_data(dump(object));
}

// Headers go out when every choice is admitted: until then a refusal can still have its own status.
void completion_job::flush_stream() {
  if (!plan_.common.stream) return;
  if (!stream_started_) {
    if (!std::all_of(choices_.begin(), choices_.end(),
                     [](const choice& c) { return c.admitted || c.closed; }))
      return;
    stream_started_ = true;
    if (std::exchange(queued_, false)) metrics_->requests_queued->Decrement();
    http_response head;
    head.content_type = "text/event-stream";
    head.headers = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}};
    decorate_(head);
    exchange_->start_stream(std::move(head), plan_.ping);
  }
  if (!frames_.empty() && !exchange_->write(std::exchange(frames_, {})) && !done_) end(200);
}

void completion_job::try_finish() {
  if (queued_ &&
      std::all_of(choices_.begin(), choices_.end(), [](const choice& c) { return c.admitted; })) {
    queued_ = false;
    metrics_->requests_queued->Decrement();
  }
  for (const auto& c : choices_)
    if (!c.closed || (plan_.common.return_trace && !c.ended)) return;
  plan_.common.stream ? finish_stream() : finish_whole();
}

void completion_job::finish_stream() {
  if (plan_.common.include_usage || plan_.common.return_trace) {
    ojson last = answer(plan_.head, true, ojson::array(), usage());
    if (plan_.common.return_trace) last["trace"] = trace_object(choices_.front().end);
    frame(last);
  }
  frames_ += sse_done;
  exchange_->write(std::exchange(frames_, {}));
  exchange_->end_stream();
  end(200);
}

void completion_job::finish_whole() {
  ojson list = ojson::array();
  for (auto& c : choices_) {
    ojson logprobs =
        options_.logprobs
            ? logprobs_of(c.entries, plan_.echo ? c.prompt_entries.size() : 0, c.prompt_points)
            : ojson();
    list.push_back(
        plan_.head.chat
            ? chat_choice(c.index, std::move(c.text), c.calls, std::move(logprobs), c.finish_reason)
            : completion_choice(c.index, std::move(c.text), std::move(logprobs), c.finish_reason));
  }
  ojson whole = answer(plan_.head, false, std::move(list), usage());
  if (plan_.common.return_trace) whole["trace"] = trace_object(choices_.front().end);
  http_response response;
  response.body = dump(whole);
  decorate_(response);
  exchange_->respond(std::move(response));
  end(200);
}

answer_usage completion_job::usage() const {
  answer_usage u;
  u.cached_tokens = 0;
  for (const auto& c : choices_) {
    if (c.index % plan_.common.n == 0) {
      u.prompt_tokens += c.prompt.tokens.size();
      *u.cached_tokens += c.end.usage.cached_tokens;
    }
    u.completion_tokens += c.output.tokens();
  }
  return u;
}

}  // namespace troupe::api
