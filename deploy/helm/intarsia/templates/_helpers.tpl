{{/* The release's name, with the chart's unless it is in it. */}}
{{- define "intarsia.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{- define "intarsia.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "intarsia.labels" -}}
{{ include "intarsia.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "intarsia.image" -}}
{{- $device := ternary "gpu" "cpu" (gt (int .Values.gpu.count) 0) -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default (printf "%s-%s" $device .Chart.AppVersion) }}
{{- end }}

{{/* Kubernetes' own gRPC probes speak no TLS; the image's health check does. */}}
{{- define "intarsia.probe" -}}
{{- if .Values.tls.enabled -}}
exec:
  command: [intarsia-health]
{{- else -}}
grpc:
  port: {{ .Values.port }}
{{- end }}
timeoutSeconds: 5
{{- end }}
