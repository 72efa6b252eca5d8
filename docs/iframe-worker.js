// Pages that are opened from a disk may start no workers. The search, which is one, runs in a
// hidden frame there: it has globals of its own, and messages go in and out as with a worker.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super()
      this.waiting = []
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      const begin = () => {
        document.body.append(this.frame)
        const inside = this.frame.contentWindow
        inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
        const script = inside.document.createElement("script")
        script.src = new URL(address, location.href).href
        script.onload = () => {
          const messages = this.waiting
          this.waiting = null
          messages.forEach(data => this.postMessage(data))
        }
        inside.document.body.append(script)
      }
      if (document.body) begin()
      else addEventListener("DOMContentLoaded", begin)
    }

    postMessage(data) {
      if (this.waiting) this.waiting.push(data)
      else this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data }))
    }

    terminate() {
      this.frame.remove()
    }
  }
}
